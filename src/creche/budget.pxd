cimport cython

from creche.turns cimport Turns


@cython.final
cdef class Budget:
    cdef int _left
    cdef int _operations
    cdef double _end
    cdef double _seconds
    cdef bint _turning
    cdef double _now
    cdef object _line
    cdef int _turns_in_vain

    @cython.locals(now=double, over=bint)
    cpdef bint spend(self, Turns turns) except -1
    cpdef exhaust(self)
    cpdef bint is_late(self) except -1
    @cython.locals(longest=double)
    cdef bint _takes(self, int times) except -1
    cdef _next(self)
