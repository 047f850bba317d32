// What is asked of a run over its control socket: one line a connection, a command's name and key=value words.
//
//     explain guest=guest-0 gfn=4711
//     poison guest=guest-0 gfn=4711
//     poison frame=1303
//     balloon guest=guest-0 bytes=268435456
//     balloon guest=guest-0
//
// The answer is one line of JSON: {"error": "..."}, or what the command says.
#ifndef QUIRE_VMM_CONTROL_REQUEST_H_
#define QUIRE_VMM_CONTROL_REQUEST_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quire {

// A longer line is refused.
inline constexpr size_t kLongestRequest = 1024;

struct ControlRequest {
  // What to do to a page, for kPoison to a frame of the pool as well, and for kBalloon to a guest.
  enum class Command : uint8_t { kExplain, kPoison, kBalloon } command = Command::kExplain;
  std::string guest = {};  // a number or a name; words of letters, digits, '-', '_' and '.'
  std::optional<uint64_t> gfn = {};
  std::optional<uint64_t> frame = {};  // instead of a guest's page
  std::optional<uint64_t> bytes = {};  // that the balloon is to take; without them it is only asked about

  friend bool operator==(const ControlRequest&, const ControlRequest&) = default;
};

// `line` may be any bytes. Error: InvalidArgument, a sentence without a full stop.
absl::StatusOr<ControlRequest> ParseRequest(absl::string_view line);

// What ParseRequest reads back, without a line break.
std::string FormatRequest(const ControlRequest& request);

// Whether ParseRequest would take it for a guest.
bool IsGuestName(absl::string_view name);

}  // namespace quire

#endif  // QUIRE_VMM_CONTROL_REQUEST_H_
