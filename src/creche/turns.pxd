cimport cython

from creche.waiting cimport Waiter


cdef class Turns:
    cdef object _loop
    cdef Waiter _waiter
    cdef object _callbacks
    cdef bint _due

    cpdef run_soon(self, callback)
    cdef _wake(self)
    @cython.locals(end=double, left=Py_ssize_t)
    cpdef _call_back(self)
