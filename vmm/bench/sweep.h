// A guest that fills its memory, waits, and on a word touches every page once: what the benchmarks of single steps use.
#ifndef QUIRE_VMM_BENCH_SWEEP_H_
#define QUIRE_VMM_BENCH_SWEEP_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "vmm/bench/measurement.h"
#include "vmm/guest_set.h"
#include "vmm/options.h"

namespace quire {

// Belongs to one thread. The guest is ended when it goes.
class SweepGuest {
 public:
  // `options` outlives the guest. With `fill`, the guest writes its content to all pages first; else they are fresh.
  static absl::StatusOr<SweepGuest> Create(const RunOptions& options, bool fill);
  SweepGuest(SweepGuest&&) = default;
  ~SweepGuest();

  // Starts the guest and waits until it waits.
  absl::Status Start();
  // Takes all of its memory out of it, and its content out of memory: into the store, or into swap.
  absl::Status PushOut();
  // Has every page touched. Gives the time for each in microseconds, and the CPU time of the process meanwhile.
  absl::StatusOr<Measurement> Sweep();
  // Has every page verified, after a sweep, and adds to `measurement` what was wrong.
  absl::Status Verify(Measurement& measurement);

  const GuestSet::Guest& guest() const { return set_->guests()[0]; }
  MemoryManager* manager() { return set_->manager(); }
  double content_ratio() const { return set_->content_ratio(); }

 private:
  explicit SweepGuest(std::unique_ptr<GuestSet> set, PageCount size) : set_(std::move(set)), size_(size) {}

  // Waits for `done`, looking every `interval`. Error: the guest died, or the user interrupted it.
  template <class Done>
  absl::Status Await(absl::Duration interval, Done done);
  absl::Status PushOutByManager();
  absl::Status PushOutByKernel();

  std::unique_ptr<GuestSet> set_;
  PageCount size_;
};

}  // namespace quire

#endif  // QUIRE_VMM_BENCH_SWEEP_H_
