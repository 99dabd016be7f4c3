from creche.protocol.frames cimport make_frame
from creche.protocol.messages cimport encode_message, message_opcode


cdef class PreparedMessage:
    cdef readonly bytes payload
    cdef readonly int opcode
    cdef readonly bint compress
    cdef tuple _plain
    cdef dict _encoded

    cpdef tuple encode_for(self, extensions)
    cdef tuple _frame(self, int opcode, bytes payload)
