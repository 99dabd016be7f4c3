cimport cython

from creche.protocol.control_frames cimport ControlFrames
from creche.protocol.frames cimport FrameHeader
from creche.protocol.masking cimport apply_mask
from creche.protocol.messages cimport Inbox


cdef class Parsing(ControlFrames):
    cdef public Inbox inbox
    cdef public str loss
    cdef public bint eof
    cdef public bint held
    cdef public Py_ssize_t payload_left
    cdef bint _discarding
    cdef Py_ssize_t _dropped
    cdef public bytearray _tail
    cdef Py_ssize_t _finished
    cdef FrameHeader _header
    cdef object _decoder
    cdef object _ahead
    cdef bint _parsing
    cdef bint _decoding
    cdef bint _finishing
    cdef Py_ssize_t _fed

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
    @cython.locals(header=FrameHeader, shown=bytearray)
    cdef _observe_received(self, bytearray data, Py_ssize_t start, Py_ssize_t stop)
    @cython.locals(header=FrameHeader, size=Py_ssize_t, stop=Py_ssize_t)
    cdef Py_ssize_t _parse_payload(
        self, bytearray data, Py_ssize_t position, Py_ssize_t end
    ) except -1
    cdef _end_frame(self)
    cdef _choose_decoder(self, int reserved)
    @cython.locals(room=Py_ssize_t)
    cdef _decode(self)
    cdef _drop(self, Py_ssize_t size)
    cdef _violation(self, exc, double now)
