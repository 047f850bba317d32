// What executes the guests: decided once, by the same rules for `quire run` and `quire doctor`.
#ifndef QUIRE_VMM_ACCEL_H_
#define QUIRE_VMM_ACCEL_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "vmm/host.h"
#include "vmm/options.h"

namespace quire {

// Something the host lacks, and how to get it. Neither ends with a full stop.
struct Obstacle {
  std::string found;
  std::string fix;
  std::string detail = {};  // more about what was found, possibly long; or empty
  friend bool operator==(const Obstacle&, const Obstacle&) = default;
};

// "found (detail)".
std::string FullText(const Obstacle& obstacle);

// Why KVM cannot be used; nothing if it can.
std::optional<Obstacle> KvmObstacle(const Host& host);

// Why userfaultfd cannot serve the faults of KVM guests; nothing if it can.
std::optional<Obstacle> UserfaultfdObstacle(const Host& host);

// Why a guest with a kernel of its own may not run under KVM, where that is known: KVM pages guests without the
// hardware's help (EPT, NPT). Nothing if it does, or if it cannot be told.
std::optional<Obstacle> NestedPagingObstacle(const Host& host);
// Whether the hardware helps; nothing if it cannot be told.
std::optional<bool> HasNestedPaging(const Host& host);

// Bits of UserfaultfdOffer::features, from linux/userfaultfd.h, which differs between the kernels that are built on.
inline constexpr uint64_t kUffdMissingShmem = uint64_t{1} << 5;
inline constexpr uint64_t kUffdMinorShmem = uint64_t{1} << 10;

struct AccelRequest {
  Accel accel = Accel::kAuto;
  Engine engine = Engine::kQuire;
  // The flag that names a program or kernel of the user's own, which only KVM can run; empty: there is none.
  absl::string_view own_program = {};
};

struct AccelDecision {
  Accel accel;          // kKvm or kSoft
  std::string because;  // continues "accel=soft, because ..."
};

// Errors: FailedPrecondition if KVM is asked for or needed and the host lacks it; the message says how to get it.
absl::StatusOr<AccelDecision> DecideAccel(const AccelRequest& request, const Host& host);

}  // namespace quire

#endif  // QUIRE_VMM_ACCEL_H_
