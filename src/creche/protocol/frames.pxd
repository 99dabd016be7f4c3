cimport cython

from creche.protocol.masking cimport apply_mask
from creche.protocol.octets cimport append_bytes, cut, join, pair, quad


@cython.final
cdef class FrameHeader:
    cdef public bint fin
    cdef public int opcode
    cdef public int reserved
    cdef int _reserved_bits
    cdef public Py_ssize_t length
    cdef public bytes key
    cdef bint _masked
    cdef int _known

    @cython.locals(
        first="unsigned char", second="unsigned char", opcode=int, reserved=int, length=Py_ssize_t, i=Py_ssize_t
    )
    cpdef Py_ssize_t read(
        self, const unsigned char* data, Py_ssize_t start, Py_ssize_t end
    ) except -2


@cython.locals(mask_bit=int)
cpdef bytes make_header(int opcode, Py_ssize_t length, bint fin, bint masked)

cpdef bytes make_frame(int opcode, object payload)

@cython.locals(begin=Py_ssize_t, start=Py_ssize_t)
cpdef append_frame(
    bytearray out, int opcode, object payload, bytes key=*, bint fin=*
)
