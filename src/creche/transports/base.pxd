cdef class Receiver:
    cpdef Py_ssize_t payload_left(self) except? -1
    cpdef turn_begins(self)
    cpdef data_received(self, bytearray data, Py_ssize_t size)
    cpdef reading_done(self)
    cpdef eof_received(self)
    cpdef output_left(self)


cdef class Transport:
    cdef public bytearray outbox
    cdef list _kept
    cdef public Py_ssize_t kept_size
    cdef public long long bytes_sent
    cdef public bint closed
    cdef public bint calls_back
    cdef public Receiver _receiver
    cdef public object _tasks
    cdef object __weakref__

    cpdef flush(self)
    cpdef bint read_now(self) except -1
    cpdef write(self, data)
    cpdef write_small(self, bytes data)
    cpdef Py_ssize_t waiting(self) except? -1
    cpdef Py_ssize_t kept_below(self) except? -1
    cdef _keep(self, data, Py_ssize_t start)
    cdef _keep_view(self, view)
    cpdef _front(self)
    cpdef _taken(self, Py_ssize_t size)
    cpdef _drop_output(self)
