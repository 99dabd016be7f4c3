cimport cython


cdef Py_ssize_t _LONGEST
cdef Py_ssize_t _SMALL

@cython.locals(left=Py_ssize_t, size=Py_ssize_t)
cdef Py_ssize_t _record_size(
    const unsigned char* data, Py_ssize_t start, Py_ssize_t end
) except -1


cdef class TLSSocket:
    cdef public object plain
    cdef public object ssl_object
    cdef object _incoming
    cdef object _outgoing
    cdef object _view
    cdef bytearray _buffer
    cdef Py_ssize_t _start
    cdef Py_ssize_t _end
    cdef bytes _kept
    cdef bint _decrypted
    cdef bint _over
    cdef object _error
    cdef bytes _unsent
    cdef Py_ssize_t _encrypted
    cdef object __weakref__

    cpdef Py_ssize_t kept_size(self) except? -1
    @cython.locals(left=Py_ssize_t)
    cpdef bint pending(self) except -1
    @cython.locals(received=Py_ssize_t, count=Py_ssize_t)
    cpdef Py_ssize_t recv_into(self, bytearray buffer, Py_ssize_t size) except? -1
    cdef bint _is_whole(self) except -1
    @cython.locals(count=Py_ssize_t)
    cdef Py_ssize_t _read(self, buffer, Py_ssize_t size) except? -1
    cpdef keep(self)
    @cython.locals(size=Py_ssize_t)
    cpdef Py_ssize_t send(self, data) except? -1
    @cython.locals(start=Py_ssize_t, stop=Py_ssize_t, end=Py_ssize_t)
    cdef list _encrypt(self, data)
    cdef _take_up(self)
    @cython.locals(left=Py_ssize_t, size=Py_ssize_t)
    cdef _receive(self)
    @cython.locals(size=Py_ssize_t, stop=Py_ssize_t)
    cdef bint _feed(self) except -1
    cdef _push(self)
    @cython.locals(size=Py_ssize_t, whole=Py_ssize_t, record=bytes)
    cdef _send_encrypted(self, list records)
    cdef _push_alert(self)
