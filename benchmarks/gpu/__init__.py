"""Everything that only a GPU can tell, in one command that resumes; and what the compilers tell without one."""
