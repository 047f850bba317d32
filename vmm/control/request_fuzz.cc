// Any bytes are refused or give a request that formats and parses back to itself.
#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/check.h"
#include "vmm/control/request.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::StatusOr<quire::ControlRequest> request =
      quire::ParseRequest(absl::string_view(reinterpret_cast<const char*>(data), size));
  if (!request.ok()) return 0;
  QUIRE_CHECK(*quire::ParseRequest(quire::FormatRequest(*request)) == *request);
  return 0;
}
