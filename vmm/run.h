// One run of guests: what `quire run` does once its options are known to be good.
#ifndef QUIRE_VMM_RUN_H_
#define QUIRE_VMM_RUN_H_

#include "absl/status/statusor.h"
#include "vmm/options.h"
#include "vmm/progress.h"
#include "vmm/report.h"

namespace quire {

// Starts the guests, samples them into `progress` every kSampleInterval, ends them when the time is over or the user
// asks for it, and reports. A guest that dies is part of the report; an error is one of the whole run, and its message
// is a sentence without a full stop (ToExitStatus says what becomes of its code).
// `options` passed Validate and CheckFiles, and options.accel is kKvm or kSoft. Once in a process.
absl::StatusOr<Report> RunGuests(const RunOptions& options, ProgressSink& progress);

}  // namespace quire

#endif  // QUIRE_VMM_RUN_H_
