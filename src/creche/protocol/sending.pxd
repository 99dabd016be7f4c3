from creche.protocol.frames cimport append_frame, make_frame, make_header


cdef class Sending:
    cdef public object side
    cdef public bytearray outbox
    cdef public bint masking
    cdef readonly tuple extensions
    cdef public object observer
    cdef bint _encoding

    cpdef send_message(self, int opcode, object payload, bint encode=*)
    cdef _encode(self, int opcode, object payload)
    cpdef send_frame(self, int opcode, object payload, bint fin=*)
    cpdef observe_sent(self, int opcode, object payload, bint fin=*)
    cpdef send_header(self, int opcode, object payload)
    cpdef bytes make_message(self, int opcode, bytes payload, bytes frame=*)
