cimport cython

from creche.transports.base cimport Receiver
from creche.transports.sockets cimport SocketTransport


cdef class CallbackSocketTransport(SocketTransport):
    cdef object _readiness
    cdef bint _has_reader
    cdef bint _has_writer
    cdef int _descriptor
    cdef bint _left

    @cython.locals(receiver=Receiver)
    cpdef _on_readable(self)
    @cython.locals(receiver=Receiver)
    cdef _read_on(self)
    cpdef bint read_now(self) except -1
