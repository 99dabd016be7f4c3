cimport cython


@cython.final
cdef class Share:
    cdef double _ended
    cdef double _end

    @cython.locals(now=double)
    cpdef begin(self)
    cpdef bint is_over(self) except -1


@cython.final
cdef class Poller:
    cdef public object call_soon
    cdef object _epoll
    cdef dict _readers
    cdef dict _writers
    cdef list _ready
    cdef Share _share

    @cython.locals(events=int)
    cdef _call_back(self)
    cdef _call(self, object callback)
    @cython.locals(before=int)
    cdef _watch(self, dict callbacks, int descriptor, object callback)
    cdef int _events(self, int descriptor) except -1
    cdef _tell(self, int descriptor, int before, int events)
