cimport cython

from creche.engine.turns cimport Turns
from creche.protocol.connection cimport Connection
from creche.transports.base cimport Receiver, Transport


cdef class Ending(Receiver):
    cdef public Transport transport
    cdef public object account
    cdef public object engine
    cdef public Connection connection
    cdef public bint closed_by_us
    cdef bint _ended_before
    cdef public bint gone
    cdef object _gone_event
    cdef object _parted
    cdef bint _lingers
    cdef object _now
    cdef Turns _turns
    cdef object _key
    cdef object _timer
    cdef bint _drops
    cdef bint _hurried
    cdef int _looks
    cdef public bint _paused
    cdef Py_ssize_t _counted
    cdef object _error
    cdef bint _outcome_seen
    cdef tuple _groups
    cdef object __weakref__

    cdef _flush(self)
    cdef _resume(self)
    cdef _wake_receiver(self)
    cdef _wake_all(self)
    cdef _count(self)
    cpdef abort(self, str reason)
    cdef _lose(self, str reason, bint at_once)
    cdef _mistaken(self, exc)
    cpdef _look_again(self)
    @cython.locals(transport=Transport)
    cdef double _judge(self, double now) except? -1
    @cython.locals(connection=Connection)
    cdef bint _may_linger(self, double now) except -1
    cdef _part(self)
    @cython.locals(due=double)
    cdef _reschedule(self)
    @cython.locals(connection=Connection, transport=Transport)
    cdef _update(self)
