cimport cython

from creche.engine.polling cimport Share
from creche.engine.waiting cimport Waiter


cdef class Turns:
    cdef object _loop
    cdef object _context
    cdef Waiter _waiter
    cdef object _callbacks
    cdef bint _due
    cdef Share _share

    cpdef run_soon(self, callback)
    cdef _wake(self)
    @cython.locals(left=Py_ssize_t)
    cpdef _call_back(self)
