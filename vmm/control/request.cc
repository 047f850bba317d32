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

absl::Status SetKey(absl::string_view key, absl::string_view value, ControlRequest& request) {
  if (key == "guest") {
    if (!IsGuestName(value)) return Bad(Shown(value), " is no guest: write its number or name, such as guest-0");
    request.guest = std::string(value);
    return absl::OkStatus();
  }
  if (key == "gfn") {
    if (absl::SimpleAtoi(value, &request.gfn)) return absl::OkStatus();
    return Bad("gfn=", Shown(value), " is not a page number: write a whole number such as 4711");
  }
  return Bad(Shown(key), " is not a key of this request: guest and gfn are");
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
  if (words.empty() || words[0] != "explain") {
    return Bad(Shown(words.empty() ? "" : words[0]), " is not a request: write explain guest=NAME gfn=N");
  }
  ControlRequest request;
  std::vector<absl::string_view> given;
  for (size_t i = 1; i < words.size(); ++i) {
    const std::pair<absl::string_view, absl::string_view> word = absl::StrSplit(words[i], absl::MaxSplits('=', 1));
    if (std::find(given.begin(), given.end(), word.first) != given.end())
      return Bad(Shown(word.first), " is given twice");
    if (absl::Status set = SetKey(word.first, word.second, request); !set.ok()) return set;
    given.push_back(word.first);
  }
  if (given.size() != 2) return Bad("explain needs a guest and a page: write explain guest=NAME gfn=N");
  return request;
}

std::string FormatRequest(const ControlRequest& request) {
  return absl::StrCat("explain guest=", request.guest, " gfn=", request.gfn);
}

}  // namespace quire
