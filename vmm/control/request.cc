#include "vmm/control/request.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace quire {
namespace {

template <typename... Args>
absl::Status Bad(const Args&... args) {
  return absl::InvalidArgumentError(absl::StrCat(args...));
}

// What came may be anything; so much of it is shown.
std::string Shown(absl::string_view word) { return absl::StrCat("\"", absl::CHexEscape(word.substr(0, 40)), "\""); }

absl::string_view Name(ControlRequest::Command command) {
  switch (command) {
    case ControlRequest::Command::kExplain:
      return "explain";
    case ControlRequest::Command::kPoison:
      return "poison";
    case ControlRequest::Command::kBalloon:
      break;
  }
  return "balloon";
}

absl::Status SetNumber(absl::string_view key, absl::string_view value, std::optional<uint64_t>& number) {
  uint64_t parsed;
  if (!absl::SimpleAtoi(value, &parsed)) {
    return Bad(key, "=", Shown(value), " is not a number: write a whole one such as 4711");
  }
  number = parsed;
  return absl::OkStatus();
}

absl::Status SetKey(absl::string_view key, absl::string_view value, ControlRequest& request) {
  if (key == "gfn") return SetNumber(key, value, request.gfn);
  if (key == "frame") return SetNumber(key, value, request.frame);
  if (key == "bytes") return SetNumber(key, value, request.bytes);
  if (key != "guest") return Bad(Shown(key), " is not a key of a request: guest, gfn, frame and bytes are");
  if (!IsGuestName(value)) return Bad(Shown(value), " is no guest: write its number or name, such as guest-0");
  request.guest = std::string(value);
  return absl::OkStatus();
}

absl::Status CheckComplete(const ControlRequest& request) {
  const bool page = !request.guest.empty() && request.gfn.has_value();
  const bool part_of_page = !request.guest.empty() || request.gfn.has_value();
  if (request.command == ControlRequest::Command::kBalloon) {
    if (!request.guest.empty() && !request.gfn && !request.frame) return absl::OkStatus();
    return Bad("balloon needs a guest: write balloon guest=NAME bytes=N, or balloon guest=NAME");
  }
  if (request.bytes.has_value()) return Bad("bytes are for balloon: leave them out");
  if (request.command == ControlRequest::Command::kExplain) {
    if (page && !request.frame.has_value()) return absl::OkStatus();
    return Bad("explain needs a guest and a page: write explain guest=NAME gfn=N");
  }
  if (request.frame.has_value() ? !part_of_page : page) return absl::OkStatus();
  return Bad("poison needs a page or a frame: write poison guest=NAME gfn=N, or poison frame=N");
}

}  // namespace

bool IsGuestName(absl::string_view name) {
  constexpr size_t kLongest = 64;
  return !name.empty() && name.size() <= kLongest && std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return absl::ascii_isalnum(c) || c == '-' || c == '_' || c == '.';
  });
}

absl::StatusOr<ControlRequest> ParseRequest(absl::string_view line) {
  if (line.size() > kLongestRequest) return Bad("a request is a line of at most ", kLongestRequest, " bytes");
  const std::vector<absl::string_view> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
  const absl::string_view command = words.empty() ? "" : words[0];
  ControlRequest request;
  if (command == "poison") {
    request.command = ControlRequest::Command::kPoison;
  } else if (command == "balloon") {
    request.command = ControlRequest::Command::kBalloon;
  } else if (command != "explain") {
    return Bad(Shown(command), " is not a request: explain, poison and balloon are");
  }
  std::vector<absl::string_view> given;
  for (size_t i = 1; i < words.size(); ++i) {
    const std::pair<absl::string_view, absl::string_view> word = absl::StrSplit(words[i], absl::MaxSplits('=', 1));
    if (std::find(given.begin(), given.end(), word.first) != given.end()) {
      return Bad(Shown(word.first), " is given twice");
    }
    if (absl::Status set = SetKey(word.first, word.second, request); !set.ok()) return set;
    given.push_back(word.first);
  }
  if (absl::Status complete = CheckComplete(request); !complete.ok()) return complete;
  return request;
}

std::string FormatRequest(const ControlRequest& request) {
  std::string line = std::string(Name(request.command));
  if (!request.guest.empty()) absl::StrAppend(&line, " guest=", request.guest);
  if (request.gfn.has_value()) absl::StrAppend(&line, " gfn=", *request.gfn);
  if (request.frame.has_value()) absl::StrAppend(&line, " frame=", *request.frame);
  if (request.bytes.has_value()) absl::StrAppend(&line, " bytes=", *request.bytes);
  return line;
}

}  // namespace quire
