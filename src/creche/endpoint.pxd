from creche.link cimport Link


cdef class Endpoint:
    cdef public Link _link
