from creche.transports.sockets cimport SocketTransport


cdef class AsyncioSocketTransport(SocketTransport):
    cdef object _loop
    cdef bint _has_reader
    cdef bint _has_writer
    cdef bint _callbacks

    cpdef _on_readable(self)
