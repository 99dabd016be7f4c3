cdef class Receiver:
    cpdef Py_ssize_t payload_left(self) except -1
    cpdef data_received(self, bytearray data, Py_ssize_t size)
    cpdef reading_done(self)
    cpdef eof_received(self)
    cpdef output_left(self)


cdef class Transport:
    cdef public bytearray outbox
    cdef public long long bytes_sent
    cdef public bint closed
    cdef public bint calls_back
    cdef public Receiver _receiver
    cdef public object _tasks
    cdef object __weakref__

    cpdef flush(self)
    cpdef write(self, data)
