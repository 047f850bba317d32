// One run of an experiment: in a process of its own, watched, and its result.
#ifndef QUIRE_VMM_EXPERIMENT_MEASURED_RUN_H_
#define QUIRE_VMM_EXPERIMENT_MEASURED_RUN_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "vmm/baseline/kernel_baseline.h"
#include "vmm/experiment/experiment.h"
#include "vmm/experiment/run_protocol.h"
#include "vmm/libvirt/qemu/qemu_accel.h"

namespace quire {

struct RunEnvironment {
  // Of the experiment; null where no run has the host kernel for its memory.
  KernelBaseline* baseline = nullptr;
  Accel accel = Accel::kSoft;  // where a variant asks for auto: kKvm or kSoft
  QemuAccel qemu_accel = {};   // what runs the guests of QEMU, if the variant has such
  std::string log;             // a file for what a run writes to standard error
  // Called several times a second.
  std::function<void(double seconds)> while_running = nullptr;
};

// What is known of a run at its end.
struct RunOutcome {
  enum class End : uint8_t {
    kOk,
    kKilled,  // the host kernel, or the manager, ended guests for want of memory
    kFailed,
  } end = End::kOk;
  std::string reason = {};  // a sentence, unless all was well
  std::vector<Sample> timeline = {};
  nlohmann::json report = {};  // as of `quire run --json`; null: it did not come to that
  double wall_seconds = 0;
  int tries = 1;  // a run that the host kernel killed for want of memory is tried again, a few times
};

// Runs `variant` with `seed`, and waits for its end. From a process without other threads: it forks. Errors: Cancelled,
// the user interrupted it; FailedPrecondition, the host cannot be made as the run needs it; what system calls report.
absl::StatusOr<RunOutcome> RunVariant(const Variant& variant, uint64_t seed, const RunEnvironment& environment);

// What a run's line in results.jsonl has of its outcome: outcome, reason, wall_seconds, values, phases, timeline,
// latency, fault_latency, report.
nlohmann::json ResultOf(const Variant& variant, const RunOutcome& outcome);

// How long the run takes, if guests fill their memory at once, and all of them fit.
double SecondsOf(const Variant& variant);

}  // namespace quire

#endif  // QUIRE_VMM_EXPERIMENT_MEASURED_RUN_H_
