from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE, PyByteArray_Resize
from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_CheckExact,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cpython.unicode cimport PyUnicode_Check
from libc.string cimport memcpy

cdef extern from "Python.h":
    # The object itself, as sys.getsizeof() has it, before the characters behind it.
    ctypedef struct PyASCIIObject:
        pass
    ctypedef struct PyCompactUnicodeObject:
        pass
    Py_ssize_t PyUnicode_GET_LENGTH(object)
    int PyUnicode_KIND(object)
    int PyUnicode_IS_ASCII(object)
    Py_ssize_t BYTES_SIZE "(Py_ssize_t)(offsetof(PyBytesObject, ob_sval) + 1)"


cpdef inline bytes cut(const unsigned char* data, Py_ssize_t start, Py_ssize_t stop):
    return data[start:stop]


cpdef inline bytes pair(unsigned char first, unsigned char second):
    cdef unsigned char[2] data
    data[0] = first
    data[1] = second
    return PyBytes_FromStringAndSize(<char*>data, 2)


cpdef inline bytes quad(
    unsigned char first, unsigned char second, unsigned char third, unsigned char fourth
):
    cdef unsigned char[4] data
    data[0] = first
    data[1] = second
    data[2] = third
    data[3] = fourth
    return PyBytes_FromStringAndSize(<char*>data, 4)


cpdef inline bytes join(bytes first, second):
    cdef Py_ssize_t size
    cdef bytes joined
    if not PyBytes_CheckExact(second):
        return first + second
    size = PyBytes_GET_SIZE(first)
    joined = PyBytes_FromStringAndSize(NULL, size + PyBytes_GET_SIZE(second))
    memcpy(PyBytes_AS_STRING(joined), PyBytes_AS_STRING(first), size)
    memcpy(PyBytes_AS_STRING(joined) + size, PyBytes_AS_STRING(second), PyBytes_GET_SIZE(second))
    return joined


cpdef inline append_bytes(bytearray out, data):
    cdef Py_ssize_t size
    if PyBytes_CheckExact(data):
        size = PyByteArray_GET_SIZE(out)
        PyByteArray_Resize(out, size + PyBytes_GET_SIZE(data))
        memcpy(PyByteArray_AS_STRING(out) + size, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    else:
        out += data


cpdef inline Py_ssize_t memory_of(data):
    if not PyUnicode_Check(data):
        return BYTES_SIZE + PyBytes_GET_SIZE(data)
    if PyUnicode_IS_ASCII(data):
        return sizeof(PyASCIIObject) + PyUnicode_GET_LENGTH(data) + 1
    return sizeof(PyCompactUnicodeObject) + (PyUnicode_GET_LENGTH(data) + 1) * PyUnicode_KIND(data)
