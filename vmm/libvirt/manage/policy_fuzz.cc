// Any file is read as a policy or refused, with its name and a line of it, in a sentence that does nothing to a
// terminal; and what is read is a policy that makes sense.
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/check.h"
#include "base/units.h"
#include "vmm/libvirt/manage/policy.h"

namespace quire {
namespace {

constexpr size_t kLongest = 4096;

void CheckDomain(const DomainPolicy& domain) {
  constexpr ByteCount kMemory = ByteCount::GiB(16);
  QUIRE_CHECK(domain.shares >= 1 && domain.shares <= 1e6);
  QUIRE_CHECK(domain.max.Of(kMemory) > ByteCount() || !domain.max.size);
  if (!domain.min.size && !domain.max.size) QUIRE_CHECK(domain.min.Of(kMemory) <= domain.max.Of(kMemory));
}

void CheckRead(const Policy& policy) {
  QUIRE_CHECK(policy.interval >= absl::Seconds(1) && policy.interval <= absl::Hours(1));
  QUIRE_CHECK(policy.balloon.tax >= 0 && policy.balloon.tax < 1);
  QUIRE_CHECK(policy.balloon.deadband > 0 && policy.balloon.deadband < policy.balloon.step);
  QUIRE_CHECK(policy.balloon.step <= 1 && policy.balloon.headroom >= 0 && policy.balloon.headroom <= 1);
  QUIRE_CHECK(policy.ksm.least_pages >= 1 && policy.ksm.least_pages <= policy.ksm.most_pages);
  CheckDomain(policy.defaults);
  for (const DomainPolicy& domain : policy.domains) {
    CheckDomain(domain);
    QUIRE_CHECK(!domain.name.empty());
    // Some table before it may match its name too, but one of them does.
    QUIRE_CHECK(&policy.For(domain.name) != &policy.defaults);
  }
}

void CheckRefused(const absl::Status& status) {
  QUIRE_CHECK(absl::IsInvalidArgument(status));
  QUIRE_CHECK(absl::StartsWith(status.message(), "some.toml:"));
  for (const char c : status.message()) QUIRE_CHECK(static_cast<unsigned char>(c) >= ' ');
}

}  // namespace
}  // namespace quire

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace quire;
  if (size > kLongest) return 0;
  const absl::StatusOr<Policy> policy =
      ParsePolicy("some.toml", absl::string_view(reinterpret_cast<const char*>(data), size));
  policy.ok() ? CheckRead(*policy) : CheckRefused(policy.status());
  return 0;
}
