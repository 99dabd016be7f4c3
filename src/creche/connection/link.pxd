cimport cython

from creche.engine.budget cimport Budget
from creche.protocol.connection cimport Connection
from creche.protocol.messages cimport Inbox, encode_message, message_opcode
from creche.protocol.prepared cimport PreparedMessage
from creche.transports.base cimport Receiver, Transport
from creche.engine.traffic cimport Traffic
from creche.engine.turns cimport Turns
from creche.engine.waiting cimport Waiter


cdef Py_ssize_t _FLUSH_SIZE
cdef Py_ssize_t _LARGE


cdef class Link(Receiver):
    cdef public Transport transport
    cdef public object account
    cdef public object engine
    cdef public Connection connection
    cdef public bint closed_by_us
    cdef bint _ended_before
    cdef public bint gone
    cdef object _gone_event
    cdef object _now
    cdef Budget _budget
    cdef long long _turn
    cdef Py_ssize_t _write_limit
    cdef object _key
    cdef object _timer
    cdef public bint _paused
    cdef bint _continuing
    cdef bint _drops
    cdef bint _hurried
    cdef int _looks
    cdef double _direct_from
    cdef double _sent_at
    cdef bint _streaming
    cdef bint _replying
    cdef bint _flush_scheduled
    cdef Py_ssize_t _counted
    cdef Traffic _traffic
    cdef Turns _turns
    cdef long long _sent_seen
    cdef Py_ssize_t _finished_seen
    cdef object _error
    cdef bint _outcome_seen
    cdef bint _receiving
    cdef bint _taking_parts
    cdef bint _sending_parts
    cdef Waiter _arrival
    cdef tuple _senders
    cdef tuple _flushers
    cdef tuple _pingers
    cdef tuple _groups
    cdef object __weakref__

    cpdef take(self)
    cdef _check_not_busy(self, bint part)
    @cython.locals(resumed=bint, connection=Connection)
    cdef _take(self, bint part)
    cdef _next_sender(self)
    cdef _wake_receiver(self)
    cdef bint _may_go_on(self) except -1
    @cython.locals(inbox=Inbox)
    cdef bint _has_news(self) except -1
    cdef _report_end(self)
    cpdef bint is_open(self) except -1
    cpdef bint has_room(self) except -1
    cpdef bint is_slow(self) except -1
    cpdef check_sendable(self)
    cpdef note_skipped(self)
    @cython.locals(replying=bint)
    cpdef bint try_send(self, object message, object text, bint compress) except -1
    cpdef send(self, object message, object text, bint compress)
    cpdef bint post(self, PreparedMessage message, bint at_once) except -1
    @cython.locals(opcode=int)
    cdef _commit_prepared(self, PreparedMessage message, bint compress, bint at_once)
    @cython.locals(connection=Connection, single=bint)
    cdef _commit(self, int opcode, object payload, bint encode, bytes frame, bint at_once)
    cdef _write(self, object data, bint large)
    cdef _wake_sender(self)
    cpdef commit(self)
    @cython.locals(now=double)
    cdef bint _is_single(self) except -1
    cdef _appended(self, bint at_once)
    cpdef end_turn(self)
    cpdef flush_now(self)
    cdef _flush(self)
    @cython.locals(connection=Connection)
    cdef _written(self)
    cpdef abort(self, str reason)
    cdef _lose(self, str reason, bint at_once)
    @cython.locals(transport=Transport)
    cdef double _judge(self, double now) except? -1
    cpdef _look_again(self)
    cdef _mistaken(self, exc)
    cpdef Py_ssize_t payload_left(self) except? -1
    cpdef turn_begins(self)
    cpdef data_received(self, bytearray data, Py_ssize_t size)
    @cython.locals(connection=Connection, finished=Py_ssize_t)
    cdef _after_input(self)
    cpdef reading_done(self)
    cpdef eof_received(self)
    cpdef output_left(self)
    @cython.locals(sent="long long")
    cdef _count_sent(self)
    @cython.locals(transport=Transport, own=Py_ssize_t)
    cdef _count(self)
    cdef _pause(self)
    @cython.locals(connection=Connection)
    cdef _resume(self)
    @cython.locals(due=double)
    cdef _reschedule(self)
    @cython.locals(connection=Connection, transport=Transport)
    cdef _update(self)
    cdef _wake_all(self)
    cdef _wake_pingers(self)
