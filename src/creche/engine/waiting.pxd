cdef class Waiter:
    cpdef wait(self)
    cpdef turn(self)
    cpdef bint wake(self) except -1
    cpdef bint resume(self) except -1


cdef class AsyncioWaiter(Waiter):
    cdef object _loop
    cdef bint _resumes
    cdef bint _begun
    cdef bint _woken
    cdef bint _cancelled
    cdef object _message
    cdef object _callback
    cdef object _context
    cdef public bint _asyncio_future_blocking

    cpdef wait(self)
    cpdef turn(self)
    cpdef bint wake(self) except -1
    cpdef bint resume(self) except -1


cdef class TrioWaiter(Waiter):
    cdef object _trio
    cdef object _aborted
    cdef object _reschedule
    cdef object _task

    cpdef wait(self)
    cpdef turn(self)
    cpdef bint wake(self) except -1
