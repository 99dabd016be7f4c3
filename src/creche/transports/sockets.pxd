cimport cython

from creche.transports.base cimport Receiver, Transport


cdef class SocketTransport(Transport):
    cdef public object _sock
    cdef public bytearray _buffer
    cdef public bint _tls
    cdef object _greeting
    cdef public bint _paused
    cdef object _resumed
    cdef bint _writing
    cdef public bint _read_over
    cdef bint _eof_sent
    cdef object _attributes

    cpdef Py_ssize_t kept_below(self) except? -1
    cpdef bint _read_ready(self) except -1
    cdef bint _is_greeted(self) except -1
    @cython.locals(
        turns=int, least=Py_ssize_t, most=Py_ssize_t, size=Py_ssize_t, limit=Py_ssize_t,
        receiver=Receiver
    )
    cdef bint _read_some(self) except -1
    @cython.locals(size=Py_ssize_t, whole=Py_ssize_t)
    cdef bint _send_some(self) except -1
    cpdef flush(self)
    @cython.locals(size=Py_ssize_t, before=Py_ssize_t)
    cpdef write(self, data)
    @cython.locals(size=Py_ssize_t)
    cpdef write_small(self, bytes data)
    cpdef _write_ready(self)
    @cython.locals(size=Py_ssize_t)
    cdef Py_ssize_t _offer(self, data) except? -1
