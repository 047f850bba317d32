// How much of its memory a guest needs, by what it says of itself through its balloon.
#ifndef QUIRE_VMM_LIBVIRT_MANAGE_WORKING_SET_H_
#define QUIRE_VMM_LIBVIRT_MANAGE_WORKING_SET_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/units.h"
#include "vmm/libvirt/manage/observation.h"

namespace quire {

// Why statistics are of no use: they are missing, or older than `stale`, or cannot be true. Guests write them.
// Errors: FailedPrecondition, with a sentence's end: "it has said nothing for 40 s".
absl::Status CheckStatistics(const DomainObservation& domain, absl::Time time, absl::Duration stale);

// What the guest cannot do without: what it uses that is no cache which it could drop, and what its kernel never
// counts. That much is as if it were all in use when the guest swaps in: then it needs more than it has.
//
// Noise is kept out as in ESX (Waldspurger 2002, section 5.3): the estimate is the largest of the present one, a
// moving average that follows fast and one that follows slowly, so that it rises at once and falls within minutes;
// and it falls by steps of a twentieth. Belongs to one thread.
class WorkingSet {
 public:
  // Takes statistics into account that CheckStatistics has passed.
  void Update(const DomainObservation& domain, MonotonicTime now);
  // Of the statistics up to now; none until there were some.
  std::optional<ByteCount> size() const { return held_; }
  // Whether it swaps in at present.
  bool swaps() const { return swaps_; }

 private:
  struct Sample {
    MonotonicTime at = {};
    absl::Time updated = {};
    ByteCount balloon = {};
    ByteCount available = {};
    std::optional<ByteCount> swap_in = {};
    std::optional<uint64_t> major_faults = {};
  };

  void NoteKernelsOwn(const DomainObservation& domain);
  bool Swaps(const DomainObservation& domain) const;
  void Smooth(double present, absl::Duration passed);

  std::optional<Sample> last_;
  ByteCount kernels_own_ = {};  // of the guest's memory, which its MemTotal leaves out
  double fast_ = 0, slow_ = 0;  // bytes
  std::optional<ByteCount> held_;
  bool swaps_ = false;
};

}  // namespace quire

#endif  // QUIRE_VMM_LIBVIRT_MANAGE_WORKING_SET_H_
