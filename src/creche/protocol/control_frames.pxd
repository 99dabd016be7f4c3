from creche.protocol.sending cimport Sending
from creche.protocol.timers cimport Timers


cdef class ControlFrames(Sending):
    cdef public object state
    cdef public bint ended
    cdef public bint can_send
    cdef public bint must_continue
    cdef public Timers timers
    cdef public object received
    cdef public object sent
    cdef public object failure
    cdef public tuple answered
    cdef public object latency
    cdef Py_ssize_t _write_limit
    cdef public object _pings
    cdef object _keepalive
    cdef object _pong_waiting

    cdef _move(self, event)
    cdef _control(self, int opcode, bytes payload, double now)
    cpdef bint output_left(self) except -1
