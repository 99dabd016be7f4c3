cimport cython


@cython.final
cdef class Budget:
    cdef public bint exhausted
    cdef int _left
    cdef int _operations
    cdef double _since
    cdef double _seconds

    @cython.locals(now=double)
    cpdef bint spend(self) except -1
    cpdef reset(self)


cdef class Waiter:
    cpdef wait(self)
    cpdef bint wake(self) except -1


cdef class AsyncioWaiter(Waiter):
    cdef object _loop
    cdef object _future

    cpdef wait(self)
    cpdef bint wake(self) except -1


cdef class TrioWaiter(Waiter):
    cdef object _trio
    cdef object _cancelled
    cdef object _task

    cpdef wait(self)
    cpdef bint wake(self) except -1
