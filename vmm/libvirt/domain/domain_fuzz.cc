// Any bytes are a domain or are refused, with the file's name, in a sentence that does nothing to a terminal. What is
// read is within bounds, and comes back as it is after it has been written.
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "base/check.h"
#include "base/units.h"
#include "guest/guest_limits.h"
#include "vmm/libvirt/domain/document.h"
#include "vmm/libvirt/domain/domain_guest.h"
#include "vmm/libvirt/domain/domain_xml.h"
#include "vmm/libvirt/domain/note.h"
#include "vmm/machine/pc_shape.h"
#include "vmm/pc_options.h"
#include "vmm/text.h"

namespace quire {
namespace {

constexpr size_t kLongest = 16 << 10;

void CheckRefused(const absl::Status& status) {
  QUIRE_CHECK(absl::IsInvalidArgument(status));
  QUIRE_CHECK(absl::StartsWith(status.message(), "some.xml:"));
  QUIRE_CHECK(Printable(status.message()) == status.message());
}

void CheckNotes(const DomainReading& reading, int lines) {
  for (const DomainNote& note : reading.notes) {
    QUIRE_CHECK(note.line >= 1 && note.line <= lines);
    QUIRE_CHECK(absl::StartsWith(note.path, "/domain"));
    QUIRE_CHECK(!note.why.empty());
  }
}

void CheckGuest(const DomainReading& reading) {
  const DomainGuest& guest = reading.guest;
  QUIRE_CHECK(!guest.name.empty() && Printable(guest.name) == guest.name);
  QUIRE_CHECK(guest.memory > ByteCount() && guest.memory.page_aligned());
  QUIRE_CHECK(guest.pc.balloon < guest.memory && guest.pc.balloon.page_aligned());
  QUIRE_CHECK(guest.vcpus >= 1);
  QUIRE_CHECK(guest.pc.disks.size() <= kMostDisks);
  if (guest.swap_limit.has_value()) QUIRE_CHECK(guest.pool_limit.has_value() && *guest.swap_limit > ByteCount());
  if (reading.refused()) return;
  QUIRE_CHECK(absl::StartsWith(guest.pc.kernel, "/"));
  if (guest.pool_limit.has_value()) QUIRE_CHECK(*guest.pool_limit >= GuestLimits::kLeast.bytes());
}

// Lines may be others, where values had some.
std::vector<DomainNote> WithoutLines(std::vector<DomainNote> notes) {
  for (DomainNote& note : notes) note.line = 0;
  return notes;
}

// Of a guest that is as it was described, and of one that is not.
void CheckWritten(const DomainReading& reading, const std::string& text) {
  PcOptions pc = reading.guest.pc;
  pc.domain_xml = text;
  RunningGuest running{.name = "some.xml",
                       .memory = reading.guest.memory,
                       .balloon = reading.guest.pc.balloon,
                       .pool_limit = reading.guest.pool_limit,
                       .swap_limit = reading.guest.swap_limit,
                       .pc = &pc};
  const std::string written = DomainXml(running).value();
  const DomainReading again = ReadDomain(DomainDocument::Parse("some.xml", written).value()).value();
  QUIRE_CHECK(WithoutLines(again.notes) == WithoutLines(reading.notes));
  pc.domain_xml = written;
  QUIRE_CHECK(DomainXml(running).value() == written);
  running.balloon = ByteCount();
  running.pool_limit = ByteCount::MiB(64);
  running.swap_limit = ByteCount::MiB(32);
  const absl::StatusOr<DomainDocument> changed = DomainDocument::Parse("some.xml", DomainXml(running).value());
  const DomainGuest guest = ReadDomain(*changed).value().guest;
  QUIRE_CHECK(guest.pool_limit == running.pool_limit && guest.swap_limit == running.swap_limit);
  QUIRE_CHECK(guest.pc.balloon == ByteCount());
}

}  // namespace
}  // namespace quire

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace quire;
  if (size > kLongest) return 0;
  const std::string text(reinterpret_cast<const char*>(data), size);
  const absl::StatusOr<DomainDocument> document = DomainDocument::Parse("some.xml", text);
  if (!document.ok()) {
    CheckRefused(document.status());
    return 0;
  }
  const std::string written = document->ToXml();
  QUIRE_CHECK(DomainDocument::Parse("some.xml", written)->ToXml() == written);
  const absl::StatusOr<DomainReading> reading = ReadDomain(*document);
  if (!reading.ok()) {
    CheckRefused(reading.status());
    return 0;
  }
  CheckNotes(*reading, LineIndex(text).LineAt(size));
  CheckGuest(*reading);
  CheckWritten(*reading, text);
  return 0;
}
