// Any bytes are refused or give a request that formats and parses back to itself. The first line is the method, the
// second the target, and the rest the body.
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "base/check.h"
#include "vmm/control/http.h"
#include "vmm/control/request.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view input(reinterpret_cast<const char*>(data), size);
  const std::pair<absl::string_view, absl::string_view> method = absl::StrSplit(input, absl::MaxSplits('\n', 1));
  const std::pair<absl::string_view, absl::string_view> target =
      absl::StrSplit(method.second, absl::MaxSplits('\n', 1));
  const quire::HttpRequest http{
      .method = std::string(method.first), .target = std::string(target.first), .body = std::string(target.second)};
  const absl::StatusOr<quire::ControlRequest> request = quire::ParseRequest(http);
  if (!request.ok()) return 0;
  QUIRE_CHECK(*quire::ParseRequest(quire::FormatRequest(*request)) == *request);
  return 0;
}
