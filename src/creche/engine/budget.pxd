cimport cython


@cython.final
cdef class Budget:
    cdef int _left
    cdef int _operations
    cdef long long _turn
    cdef long long _begun
    cdef double _end
    cdef double _seconds
    cdef public double now
    cdef object _line
    cdef int _turns_in_vain

    @cython.locals(now=double)
    cpdef bint spend(self) except -1
    cpdef long long seen(self, long long turn) except 0
    cpdef exhaust(self)
    cpdef bint is_late(self) except -1
    @cython.locals(longest=double)
    cdef bint _takes(self, int times) except -1
    cdef _next(self)
