cimport cython

from creche.connection.outgoing cimport Outgoing
from creche.protocol.connection cimport Connection
from creche.protocol.messages cimport Inbox


cdef class Incoming(Outgoing):
    cdef long long _turn
    cdef bint _continuing
    cdef Py_ssize_t _finished_seen
    cdef bint _receiving
    cdef bint _taking_parts

    cdef _wake_pingers(self)
    cpdef take(self)
    cdef _check_not_busy(self, bint part)
    @cython.locals(resumed=bint, connection=Connection)
    cdef _take(self, bint part)
    cdef _wake_receiver(self)
    cdef bint _may_go_on(self) except -1
    @cython.locals(inbox=Inbox)
    cdef bint _has_news(self) except -1
    cdef _report_end(self)
    cpdef Py_ssize_t payload_left(self) except? -1
    cpdef turn_begins(self)
    cpdef data_received(self, bytearray data, Py_ssize_t size)
    cpdef reading_done(self)
    @cython.locals(connection=Connection, finished=Py_ssize_t)
    cdef _after_input(self)
    cpdef eof_received(self)
    cdef _pause(self)
    @cython.locals(connection=Connection)
    cdef _resume(self)
