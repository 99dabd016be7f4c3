cimport cython

from creche.connection.ending cimport Ending
from creche.engine.budget cimport Budget
from creche.engine.traffic cimport Traffic
from creche.engine.waiting cimport Waiter
from creche.protocol.connection cimport Connection
from creche.protocol.messages cimport encode_message, message_opcode
from creche.protocol.prepared cimport PreparedMessage


cdef Py_ssize_t _FLUSH_SIZE
cdef Py_ssize_t _LARGE


cdef class Outgoing(Ending):
    cdef Budget _budget
    cdef Py_ssize_t _write_limit
    cdef double _direct_from
    cdef double _sent_at
    cdef bint _streaming
    cdef bint _replying
    cdef bint _flush_scheduled
    cdef Traffic _traffic
    cdef long long _sent_seen
    cdef bint _sending_parts
    cdef Waiter _arrival
    cdef tuple _senders
    cdef tuple _flushers

    cpdef bint is_open(self) except -1
    cpdef bint has_room(self) except -1
    cpdef bint is_slow(self) except -1
    cpdef check_sendable(self)
    @cython.locals(replying=bint)
    cpdef bint try_send(self, object message, object text, bint compress) except -1
    cpdef send(self, object message, object text, bint compress)
    cpdef bint post(self, PreparedMessage message, bint at_once) except -1
    @cython.locals(opcode=int)
    cdef _commit_prepared(self, PreparedMessage message, bint compress, bint at_once)
    @cython.locals(connection=Connection, single=bint)
    cdef _commit(self, int opcode, object payload, bint encode, bytes frame, bint at_once)
    cdef _write(self, object data, bint large)
    cdef _next_sender(self)
    cdef _wake_sender(self)
    cpdef commit(self)
    cdef _appended(self, bint at_once)
    @cython.locals(now=double)
    cdef bint _is_single(self) except -1
    cpdef end_turn(self)
    cpdef flush_now(self)
    cdef _flush(self)
    @cython.locals(connection=Connection)
    cdef _written(self)
    cpdef output_left(self)
    @cython.locals(sent="long long")
    cdef _count_sent(self)
    cpdef note_skipped(self)
