#include "vmm/libvirt/connection.h"

namespace quire {

absl::string_view Name(DomainState state) {
  switch (state) {
    case DomainState::kNone:
      return "no state";
    case DomainState::kRunning:
      return "running";
    case DomainState::kBlocked:
      return "idle";
    case DomainState::kPaused:
      return "paused";
    case DomainState::kShuttingDown:
      return "in shutdown";
    case DomainState::kShutOff:
      return "shut off";
    case DomainState::kCrashed:
      return "crashed";
    case DomainState::kSuspended:
      return "pmsuspended";
  }
  return "no state";
}

}  // namespace quire
