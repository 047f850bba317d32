#include "vmm/boot/aml.h"

#include <cstddef>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace quire::aml {
namespace {

enum Opcode : uint8_t {
  kZeroOp = 0x00,
  kOneOp = 0x01,
  kNameOp = 0x08,
  kBytePrefix = 0x0a,
  kWordPrefix = 0x0b,
  kDWordPrefix = 0x0c,
  kStringPrefix = 0x0d,
  kQWordPrefix = 0x0e,
  kScopeOp = 0x10,
  kBufferOp = 0x11,
  kPackageOp = 0x12,
  kExtendedPrefix = 0x5b,
  kDeviceOp = 0x82,  // after kExtendedPrefix
};

// Tags of resource descriptors; a small one has its length in the low three bits.
enum ResourceTag : uint8_t {
  kIrqTag = 0x22,
  kIoPortTag = 0x47,
  kEndTag = 0x79,
  kMemory32Tag = 0x86,
  kExtendedInterruptTag = 0x89,
};

// The low `size` bytes of `value`, little-endian.
std::string Number(uint64_t value, int size) {
  std::string bytes;
  for (int i = 0; i < size; ++i) bytes.push_back(static_cast<char>(value >> 8 * i & 0xff));
  return bytes;
}

std::string Byte(uint8_t value) { return Number(value, 1); }

// PkgLength counts itself. One byte holds 6 bits of it; with 1 to 3 more bytes, the first holds their number and 4
// bits.
std::string WithLength(absl::string_view content) {
  if (content.size() + 1 < 1 << 6) return absl::StrCat(Byte(content.size() + 1), content);
  for (int more = 1; more <= 3; ++more) {
    const size_t length = content.size() + 1 + more;
    if (length >> (4 + 8 * more) != 0) continue;
    return absl::StrCat(Byte(more << 6 | (length & 0xf)), Number(length >> 4, more), content);
  }
  QUIRE_CHECK(false);  // 256 MiB of AML
  return "";
}

absl::string_view CheckedName(absl::string_view name) {
  QUIRE_CHECK(name.size() == 4);
  return name;
}

}  // namespace

std::string Integer(uint64_t value) {
  if (value == 0) return Byte(kZeroOp);
  if (value == 1) return Byte(kOneOp);
  if (value <= 0xff) return Byte(kBytePrefix) + Number(value, 1);
  if (value <= 0xffff) return Byte(kWordPrefix) + Number(value, 2);
  if (value <= 0xffffffff) return Byte(kDWordPrefix) + Number(value, 4);
  return Byte(kQWordPrefix) + Number(value, 8);
}

std::string String(absl::string_view text) { return absl::StrCat(Byte(kStringPrefix), text, Byte(0)); }

// Five bits a letter and four a digit, the first in the highest bits, and then the bytes in descending order.
std::string EisaId(absl::string_view id) {
  QUIRE_CHECK(id.size() == 7);
  uint32_t value = 0;
  for (const char letter : id.substr(0, 3)) {
    QUIRE_CHECK(absl::ascii_isupper(letter));
    value = value << 5 | (letter - '@');
  }
  for (const char digit : id.substr(3)) {
    QUIRE_CHECK(absl::ascii_isxdigit(digit));
    value = value << 4 | (absl::ascii_isdigit(digit) ? digit - '0' : absl::ascii_toupper(digit) - 'A' + 10);
  }
  return Integer(__builtin_bswap32(value));
}

std::string Buffer(absl::string_view bytes) {
  return Byte(kBufferOp) + WithLength(absl::StrCat(Integer(bytes.size()), bytes));
}

std::string Package(const std::vector<std::string>& elements) {
  QUIRE_CHECK(elements.size() <= 255);
  std::string content = Byte(elements.size());
  for (const std::string& element : elements) content += element;
  return Byte(kPackageOp) + WithLength(content);
}

std::string Name(absl::string_view name, absl::string_view object) {
  return absl::StrCat(Byte(kNameOp), CheckedName(name), object);
}

std::string Device(absl::string_view name, absl::string_view terms) {
  return Byte(kExtendedPrefix) + Byte(kDeviceOp) + WithLength(absl::StrCat(CheckedName(name), terms));
}

std::string Scope(absl::string_view name, absl::string_view terms) {
  return Byte(kScopeOp) + WithLength(absl::StrCat(CheckedName(name), terms));
}

std::string ResourceTemplate(absl::string_view descriptors) {
  return Buffer(absl::StrCat(descriptors, Byte(kEndTag), Byte(0)));  // a checksum of 0 is not checked
}

std::string IoPorts(uint16_t first, uint8_t count) {
  constexpr uint8_t kDecodes16Bits = 1, kAlignment = 1;
  return Byte(kIoPortTag) + Byte(kDecodes16Bits) + Number(first, 2) + Number(first, 2) + Byte(kAlignment) + Byte(count);
}

std::string IsaInterrupt(int irq) { return Byte(kIrqTag) + Number(uint64_t{1} << irq, 2); }

std::string Memory32(uint32_t begin, uint32_t size) {
  constexpr uint8_t kWritable = 1;
  return Byte(kMemory32Tag) + Number(9, 2) + Byte(kWritable) + Number(begin, 4) + Number(size, 4);
}

std::string EdgeInterrupt(uint32_t gsi) {
  constexpr uint8_t kConsumer = 1 << 0, kEdge = 1 << 1;
  return Byte(kExtendedInterruptTag) + Number(6, 2) + Byte(kConsumer | kEdge) + Byte(1) + Number(gsi, 4);
}

}  // namespace quire::aml
