cimport cython

cpdef void apply_mask(
    bytearray data, Py_ssize_t start, Py_ssize_t stop, bytes key, Py_ssize_t offset=*
) except *

@cython.locals(
    first="unsigned char",
    second="unsigned char",
    third="unsigned char",
    fourth="unsigned char",
)
cpdef void mask_bytes(
    unsigned char* data,
    Py_ssize_t start,
    Py_ssize_t stop,
    const unsigned char* key,
    Py_ssize_t offset,
) noexcept
