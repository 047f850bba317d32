// A builder of AML, the byte code in which ACPI describes devices: as much of it as naming values and resources takes.
//
// Every function returns the encoding of one term; terms are put together by concatenation. Encodings are strings of
// bytes, which need not be text. Names are of exactly four characters ("_HID", "COM1").
//
// Source: ACPI Specification 6.5, chapter 20 "ACPI Machine Language" and section 6.4 "Resource Data Types".
#ifndef QUIRE_VMM_BOOT_AML_H_
#define QUIRE_VMM_BOOT_AML_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace quire::aml {

// Objects. An integer takes the shortest encoding there is for it.
std::string Integer(uint64_t value);
std::string String(absl::string_view text);  // ASCII, no zeros
std::string EisaId(absl::string_view id);    // "PNP0501": three capital letters and four hexadecimal digits
std::string Buffer(absl::string_view bytes);
std::string Package(const std::vector<std::string>& elements);  // at most 255

// Terms that put objects into the name space.
std::string Name(absl::string_view name, absl::string_view object);
std::string Device(absl::string_view name, absl::string_view terms);
std::string Scope(absl::string_view name, absl::string_view terms);

// A device's resources: a buffer of descriptors, the object of _CRS.
std::string ResourceTemplate(absl::string_view descriptors);
std::string IoPorts(uint16_t first, uint8_t count);
std::string IsaInterrupt(int irq);                    // 0 to 15; edge-triggered, active high, not shared
std::string Memory32(uint32_t begin, uint32_t size);  // writable
std::string EdgeInterrupt(uint32_t gsi);              // active high, not shared

}  // namespace quire::aml

#endif  // QUIRE_VMM_BOOT_AML_H_
