// What a run answers to requests over its control socket.
#ifndef QUIRE_VMM_CONTROL_COMMANDS_H_
#define QUIRE_VMM_CONTROL_COMMANDS_H_

#include <string>

#include "absl/strings/string_view.h"
#include "vmm/guest_set.h"

namespace quire {

// One line of JSON without a line break: what the request wants, or {"error": "..."}. Any bytes are a request. `set`'s
// guests have been added.
std::string AnswerRequest(GuestSet& set, absl::string_view request);

}  // namespace quire

#endif  // QUIRE_VMM_CONTROL_COMMANDS_H_
