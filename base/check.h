// QUIRE_CHECK: stops the program when one of its own invariants is broken. Never for input, resources or the host:
// those are absl::Status. Active in every build mode, because a manager that goes on after losing track of a page
// hands one guest's memory to another.
#ifndef QUIRE_BASE_CHECK_H_
#define QUIRE_BASE_CHECK_H_

#include <cstdio>
#include <cstdlib>

namespace quire::internal {

[[noreturn]] inline void CheckFailed(const char* file, int line, const char* condition) {
  std::fprintf(stderr, "%s:%d: broken invariant: %s\n", file, line, condition);
  std::abort();
}

}  // namespace quire::internal

#define QUIRE_CHECK(condition)                                              \
  (__builtin_expect(static_cast<bool>(condition), 1) ? static_cast<void>(0) \
                                                     : ::quire::internal::CheckFailed(__FILE__, __LINE__, #condition))

#endif  // QUIRE_BASE_CHECK_H_
