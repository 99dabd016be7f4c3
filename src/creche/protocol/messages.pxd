cimport cython

from creche.protocol.octets cimport cut, memory_of


cdef Py_ssize_t _UNLIMITED
cdef Py_ssize_t _PART_OVERHEAD
cdef Py_ssize_t _MAX_TAKEN


@cython.final
cdef class Inbox:
    cdef public Py_ssize_t max_size
    cdef public Py_ssize_t max_fragments
    cdef public Py_ssize_t max_queue
    cdef public Py_ssize_t max_queue_bytes
    cdef public bint full
    cdef public bint between_messages
    cdef public Py_ssize_t messages
    cdef public Py_ssize_t finished
    cdef public list parts
    cdef Py_ssize_t _first
    cdef public Py_ssize_t bytes
    cdef int _opcode
    cdef Py_ssize_t _fragments
    cdef Py_ssize_t _arrived
    cdef bint _unlimited
    cdef bint _lifted
    cdef public bint oversized
    cdef object _decoder
    cdef public list _text
    cdef Py_ssize_t _loose
    cdef object _binary
    cdef Py_ssize_t _pending
    cdef list _taken
    cdef Py_ssize_t _taken_size
    cdef bint _skipping

    cpdef Py_ssize_t kept(self) except? -1
    cpdef bint is_low(self) except -1
    cpdef clear(self)
    cdef _end_message(self)
    cdef _judge_lifted(self, Py_ssize_t size)
    cpdef bint has_room(self, Py_ssize_t size) except? -1
    cpdef Py_ssize_t room(self) except? -1
    cpdef check_order(self, int opcode)
    cpdef add_message(
        self, int opcode, const unsigned char* data, Py_ssize_t start, Py_ssize_t stop
    )
    @cython.locals(size=Py_ssize_t)
    cdef _add(self, object data, bint fin)
    cdef _measure(self)
    cpdef begin_frame(self, int opcode)
    cpdef add_payload(self, object data, Py_ssize_t start, Py_ssize_t stop)
    cpdef end_frame(self, bint fin)
    cdef _decode(self, data, bint final)
    cdef _join_loose(self, list pieces)
    cdef _add_part(self, bint fin)

    @cython.locals(part=tuple, size=Py_ssize_t, fin=bint)
    cpdef take_message(self)
    cpdef bint has_part(self) except -1
    cdef bint _has_arriving(self) except -1
    cdef _join_taken(self)
    cdef _drop_first(self, Py_ssize_t size, bint fin)


cpdef int message_opcode(object message, object text=*) except -1
cpdef encode_message(object message, object text=*)
cpdef plain_bytes(object data)
