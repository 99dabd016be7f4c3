cimport cython

from creche.protocol.messages cimport Inbox
from creche.protocol.parsing cimport Parsing
from creche.protocol.timers cimport Timers


@cython.final
cdef class Connection(Parsing):
    cpdef bint must_pause(self) except -1
    cpdef Py_ssize_t payload_wanted(self) except? -1
    @cython.locals(size=Py_ssize_t)
    cpdef Py_ssize_t kept(self) except? -1
    @cython.locals(inbox=Inbox)
    cpdef next_message(self, double now)
