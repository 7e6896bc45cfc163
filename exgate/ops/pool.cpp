#include "pool.h"

#include "vector.h"

// Lend the kernels the threads of an OpenMP library: its `GOMP_parallel`.
EXGATE_API void exgate_team(exgate::Pool::Team team) { exgate::Pool::lend(team); }
