// What a run answers to requests over its control socket.
#ifndef QUIRE_VMM_CONTROL_COMMANDS_H_
#define QUIRE_VMM_CONTROL_COMMANDS_H_

#include <functional>
#include <vector>

#include "guest/memory_manager.h"
#include "vmm/control/http.h"
#include "vmm/guest_set.h"
#include "vmm/options.h"
#include "vmm/report.h"

namespace quire {

// A run whose guests have all been added.
struct ControlledRun {
  const RunOptions& options;
  GuestSet& set;
  // As they are now; while guests run, from any thread.
  std::function<Report()> report;
  std::function<std::vector<GuestReport>()> guests;
};

// Any bytes are a request. The body is JSON, {"error": "..."} where the status is not 200, or text of OpenMetrics. What
// is wrong in part changes nothing. Called by one thread at a time.
HttpAnswer AnswerRequest(const ControlledRun& run, const HttpRequest& request);

// What is in force.
PoliciesReport PoliciesOf(const MemoryManager& manager);

}  // namespace quire

#endif  // QUIRE_VMM_CONTROL_COMMANDS_H_
