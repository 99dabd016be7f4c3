cimport cython

cdef double _NEVER


@cython.final
cdef class Timers:
    cdef public double ping_interval
    cdef public double ping_timeout
    cdef public double stall_timeout
    cdef public double close_timeout
    cdef public double linger_timeout
    cdef public double message_timeout
    cdef public double last_received
    cdef public double ping_due
    cdef public double pong_due
    cdef public double stall_due
    cdef public double end_due
    cdef public double close_due
    cdef public double message_due
    cdef public double closing_since
    cdef double _close_end
    cdef double _linger_end
    cdef Py_ssize_t _close_mark
    cdef bint _closing_hard
    cdef bint _lingered
    cdef bint _paused
    cdef double _message_left
    cdef double _heard_before
    cdef Py_ssize_t _pong_mark
    cdef bint _pong_behind
    cdef Py_ssize_t _stall_mark
    cdef double _stall_since

    cpdef bint is_watching_message(self) except -1
    cpdef bint is_watching_output(self) except -1
    cpdef message_began(self, double now)
    cpdef message_done(self)
