cimport cython

from creche.protocol.frames cimport FrameHeader, append_frame, make_frame, make_header
from creche.protocol.masking cimport apply_mask
from creche.protocol.messages cimport Inbox
from creche.protocol.timers cimport Timers


@cython.final
cdef class Connection:
    cdef public object side
    cdef public bytearray outbox
    cdef public object state
    cdef public bint ended
    cdef public bint can_send
    cdef public Inbox inbox
    cdef public Timers timers
    cdef public object received
    cdef public object sent
    cdef public object failure
    cdef public str loss
    cdef public bint eof
    cdef public tuple answered
    cdef public object latency
    cdef public bint must_continue
    cdef public bint held
    cdef public bint masking
    cdef Py_ssize_t _write_limit
    cdef public object _pings
    cdef object _keepalive
    cdef object _pong_waiting
    cdef bint _discarding
    cdef Py_ssize_t _dropped
    cdef public bytearray _tail
    cdef Py_ssize_t _finished
    cdef readonly tuple extensions
    cdef FrameHeader _header
    cdef object _decoder
    cdef object _ahead
    cdef bint _parsing
    cdef bint _encoding
    cdef bint _decoding
    cdef bint _finishing
    cdef Py_ssize_t _fed
    cdef public Py_ssize_t payload_left
    cdef public object observer

    cpdef bint must_pause(self) except -1
    @cython.locals(size=Py_ssize_t)
    cpdef Py_ssize_t kept(self) except? -1
    @cython.locals(buffer=bytearray, end=Py_ssize_t, position=Py_ssize_t)
    cpdef receive_data(self, data, double now, size=*)
    @cython.locals(tail=bytearray, position=Py_ssize_t)
    cpdef resume(self, double now)
    @cython.locals(inbox=Inbox)
    cdef _watch_message(self, double now)
    @cython.locals(position=Py_ssize_t)
    cdef Py_ssize_t _parse(self, bytearray data, Py_ssize_t end, double now) except? -1
    @cython.locals(
        inbox=Inbox,
        header=FrameHeader,
        position=Py_ssize_t,
        start=Py_ssize_t,
        whole=bint,
        turns=int,
        opcode=int,
    )
    cdef Py_ssize_t _parse_frames(self, bytearray data, Py_ssize_t end, double now) except? -1
    @cython.locals(header=FrameHeader)
    cdef bint _makes_too_large(self) except -1
    cdef bint _is_too_much(self, Py_ssize_t size) except? -1
    @cython.locals(header=FrameHeader)
    cdef _control_frame(self, bytearray data, Py_ssize_t start, Py_ssize_t stop, double now)
    @cython.locals(header=FrameHeader)
    cdef _begin_frame(self, bytearray data, Py_ssize_t start, Py_ssize_t end)
    @cython.locals(header=FrameHeader, size=Py_ssize_t, stop=Py_ssize_t)
    cdef Py_ssize_t _parse_payload(
        self, bytearray data, Py_ssize_t position, Py_ssize_t end
    ) except -1
    @cython.locals(header=FrameHeader, shown=bytearray)
    cdef _observe_received(self, bytearray data, Py_ssize_t start, Py_ssize_t stop)
    cdef _end_frame(self)
    cdef _choose_decoder(self, int reserved)
    @cython.locals(room=Py_ssize_t)
    cdef _decode(self)
    cdef _control(self, int opcode, bytes payload, double now)
    cdef _drop(self, Py_ssize_t size)
    @cython.locals(inbox=Inbox)
    cpdef next_message(self, double now)
    cpdef Py_ssize_t payload_wanted(self) except? -1
    cpdef send_message(self, int opcode, object payload, bint encode=*)
    cdef _encode(self, int opcode, object payload)
    cpdef send_frame(self, int opcode, object payload, bint fin=*)
    cpdef observe_sent(self, int opcode, object payload, bint fin=*)
    cpdef send_header(self, int opcode, object payload)
    cpdef bytes make_message(self, int opcode, bytes payload, bytes frame=*)
    cpdef bint output_left(self) except -1
    cdef _violation(self, exc, double now)
    cdef _move(self, event)
