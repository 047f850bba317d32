// Any bytes are refused or give a spec that formats and parses back to itself.
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/check.h"
#include "workloads/spec.h"
#include "workloads/workload_spec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::StatusOr<quire::WorkloadSpec> spec =
      quire::ParseWorkload(absl::string_view(reinterpret_cast<const char*>(data), size));
  if (!spec.ok()) return 0;
  const std::string text = quire::FormatWorkload(*spec);
  QUIRE_CHECK(quire::FormatWorkload(*quire::ParseWorkload(text)) == text);
  return 0;
}
