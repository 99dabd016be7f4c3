cimport cython

from creche.connection.incoming cimport Incoming
from creche.transports.base cimport Transport


cdef class Link(Incoming):
    cdef tuple _pingers

    cdef _wake_pingers(self)
    cdef _wake_all(self)
    @cython.locals(transport=Transport, own=Py_ssize_t)
    cdef _count(self)
