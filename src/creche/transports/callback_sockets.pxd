from creche.transports.sockets cimport SocketTransport


cdef class CallbackSocketTransport(SocketTransport):
    cdef object _readiness
    cdef bint _has_reader
    cdef bint _has_writer

    cpdef _on_readable(self)
