#ifndef QUIRE_GUEST_HUGE_COMPACTION_MODE_H_
#define QUIRE_GUEST_HUGE_COMPACTION_MODE_H_

#include <cstdint>

namespace quire {

// Who compacts the arena when a whole block was refused; see guest/huge/compactor.h.
enum class CompactionMode : uint8_t {
  kFault,       // the fault that was refused it, for itself, and the daemon for others
  kBackground,  // the daemon
  kOff,         // nobody: no page is ever moved
};

}  // namespace quire

#endif  // QUIRE_GUEST_HUGE_COMPACTION_MODE_H_
