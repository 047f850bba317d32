#include "vmm/boot/acpi_tables.h"

#include <cstdint>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/check.h"
#include "vmm/boot/aml.h"

namespace quire {
namespace {

// Tables are little-endian and unaligned, as the structures here are in memory.
struct [[gnu::packed]] TableHeader {
  char signature[4];
  uint32_t length;
  uint8_t revision;
  uint8_t checksum;  // makes the sum of all bytes 0
  char oem_id[6];
  char oem_table_id[8];
  uint32_t oem_revision;
  char creator_id[4];
  uint32_t creator_revision;
};
static_assert(sizeof(TableHeader) == 36);

struct [[gnu::packed]] Rsdp {
  char signature[8];
  uint8_t checksum;  // of the first 20 bytes
  char oem_id[6];
  uint8_t revision;
  uint32_t rsdt;
  uint32_t length;
  uint64_t xsdt;
  uint8_t extended_checksum;  // of all
  uint8_t reserved[3];
};
static_assert(sizeof(Rsdp) == 36);
constexpr size_t kRsdpFirstPart = offsetof(Rsdp, length);

// "Generic address structure".
struct [[gnu::packed]] Register {
  uint8_t space;
  uint8_t bits;
  uint8_t bit_offset;
  uint8_t access_size;  // 1 to 4: 1, 2, 4, 8 bytes
  uint64_t address;
};
static_assert(sizeof(Register) == 12);

// Fields that stay zero because there is no such thing here are named with the specification's words, not explained.
struct [[gnu::packed]] Fadt {
  TableHeader header;
  uint32_t facs;
  uint32_t dsdt;
  uint8_t reserved0;
  uint8_t preferred_profile;
  uint16_t sci_interrupt;
  uint32_t smi_command;  // 0: ACPI mode is always on
  uint8_t acpi_enable, acpi_disable, s4bios_request, pstate_control;
  uint32_t pm1a_event, pm1b_event, pm1a_control, pm1b_control, pm2_control, pm_timer, gpe0, gpe1;
  uint8_t pm1_event_length, pm1_control_length, pm2_control_length, pm_timer_length, gpe0_length, gpe1_length;
  uint8_t gpe1_base, cstate_control;
  uint16_t c2_latency, c3_latency;
  uint16_t flush_size, flush_stride;
  uint8_t duty_offset, duty_width, day_alarm, month_alarm, century;
  uint16_t boot_architecture;
  uint8_t reserved1;
  uint32_t flags;
  Register reset_register;
  uint8_t reset_value;
  uint16_t arm_boot_architecture;
  uint8_t minor_version;
  uint64_t x_facs, x_dsdt;
  Register x_pm1a_event, x_pm1b_event, x_pm1a_control, x_pm1b_control, x_pm2_control, x_pm_timer, x_gpe0, x_gpe1;
  Register sleep_control, sleep_status;
  uint64_t hypervisor;
};
static_assert(sizeof(Fadt) == 276 && offsetof(Fadt, boot_architecture) == 109 && offsetof(Fadt, flags) == 112 &&
              offsetof(Fadt, x_dsdt) == 140 && offsetof(Fadt, sleep_control) == 244);

struct [[gnu::packed]] Facs {
  char signature[4];
  uint32_t length;
  uint32_t hardware_signature;
  uint32_t waking_vector;
  uint32_t global_lock;  // the guest's own: no firmware here contends for it
  uint32_t flags;
  uint64_t x_waking_vector;
  uint8_t version;
  uint8_t reserved[31];
};
static_assert(sizeof(Facs) == 64);
constexpr uint64_t kFacsAlignment = 64;

struct [[gnu::packed]] Madt {
  TableHeader header;
  uint32_t local_apics;
  uint32_t flags;
};

struct [[gnu::packed]] MadtLocalApic {
  uint8_t type = 0, length = sizeof(MadtLocalApic);
  uint8_t processor, apic_id;
  uint32_t flags;
};
static_assert(sizeof(MadtLocalApic) == 8);

struct [[gnu::packed]] MadtIoApic {
  uint8_t type = 1, length = sizeof(MadtIoApic);
  uint8_t id, reserved;
  uint32_t address;
  uint32_t first_gsi;
};
static_assert(sizeof(MadtIoApic) == 12);

struct [[gnu::packed]] MadtInterruptOverride {
  uint8_t type = 2, length = sizeof(MadtInterruptOverride);
  uint8_t bus, isa_irq;
  uint32_t gsi;
  uint16_t flags;
};
static_assert(sizeof(MadtInterruptOverride) == 10);

struct [[gnu::packed]] MadtLocalNmi {
  uint8_t type = 4, length = sizeof(MadtLocalNmi);
  uint8_t processor;
  uint16_t flags;
  uint8_t lint;
};
static_assert(sizeof(MadtLocalNmi) == 6);

constexpr uint8_t kAllProcessors = 0xff;
constexpr uint32_t kProcessorEnabled = 1;
constexpr uint32_t kHas8259s = 1;                              // PCAT_COMPAT
constexpr uint16_t kActiveHigh = 1, kLevelTriggered = 3 << 2;  // "MPS INTI flags"

// IAPC_BOOT_ARCH.
constexpr uint16_t kNoVga = 1 << 2, kNoCmosClock = 1 << 5;
// FADT flags: of buttons and clock they say that there are none in the fixed hardware.
constexpr uint32_t kWbinvdWorks = 1 << 0, kC1Works = 1 << 2, kNoPowerButton = 1 << 4, kNoSleepButton = 1 << 5,
                   kNoFixedClock = 1 << 6, kHasResetRegister = 1 << 10;
// Latencies from which on there is no such state, in microseconds.
constexpr uint16_t kNoC2 = 101, kNoC3 = 1001;

constexpr uint8_t kPortSpace = 1;

Register PortRegister(uint16_t port, uint8_t bytes) {
  return {.space = kPortSpace,
          .bits = static_cast<uint8_t>(8 * bytes),
          .bit_offset = 0,
          .access_size = static_cast<uint8_t>(bytes == 1 ? 1 : 2),
          .address = port};
}

template <size_t kSize>
void SetText(char (&field)[kSize], absl::string_view text) {
  QUIRE_CHECK(text.size() == kSize);
  std::memcpy(field, text.data(), kSize);
}

uint8_t Checksum(absl::string_view bytes) {
  uint8_t sum = 0;
  for (const char byte : bytes) sum += static_cast<uint8_t>(byte);
  return -sum;
}

template <class Record>
absl::string_view BytesOf(const Record& record) {
  return {reinterpret_cast<const char*>(&record), sizeof(record)};
}

TableHeader Header(absl::string_view signature, uint8_t revision) {
  TableHeader header = {};
  SetText(header.signature, signature);
  header.revision = revision;
  SetText(header.oem_id, "QUIRE ");
  SetText(header.oem_table_id, "QUIREPC ");
  header.oem_revision = 1;
  SetText(header.creator_id, "QUIR");
  header.creator_revision = 1;
  return header;
}

// `table` begins with a TableHeader, whose length and checksum are set.
std::string Finish(std::string table) {
  const uint32_t length = table.size();
  std::memcpy(table.data() + offsetof(TableHeader, length), &length, sizeof(length));
  table[offsetof(TableHeader, checksum)] = static_cast<char>(Checksum(table));
  return table;
}

std::string Finish(const TableHeader& header, absl::string_view content) {
  return Finish(absl::StrCat(BytesOf(header), content));
}

std::string Com1() {
  return aml::Device("COM1", aml::Name("_HID", aml::EisaId("PNP0501")) + aml::Name("_UID", aml::Integer(1)) +
                                 aml::Name("_CRS", aml::ResourceTemplate(aml::IoPorts(kCom1Port, kCom1Ports) +
                                                                         aml::IsaInterrupt(kCom1Gsi))));
}

// LNRO0005 is what Linux and others take for a virtio-mmio device.
std::string VirtioDevice(int device) {
  return aml::Device(absl::StrCat("VIO", device),
                     aml::Name("_HID", aml::String("LNRO0005")) + aml::Name("_UID", aml::Integer(device)) +
                         aml::Name("_CRS", aml::ResourceTemplate(
                                               aml::Memory32(VirtioMmio(device).value(), kVirtioMmioSize.in_bytes()) +
                                               aml::EdgeInterrupt(VirtioGsi(device)))));
}

std::string BuildFadt(Gpa facs, Gpa dsdt) {
  Fadt fadt = {};
  fadt.header = Header("FACP", 6);
  fadt.minor_version = 5;
  fadt.facs = facs.value();
  fadt.dsdt = fadt.x_dsdt = dsdt.value();
  fadt.sci_interrupt = kSciGsi;
  fadt.pm1a_event = kPm1EventPort;
  fadt.pm1_event_length = kPm1EventPorts;
  fadt.x_pm1a_event = PortRegister(kPm1EventPort, kPm1EventPorts);
  fadt.pm1a_control = kPm1ControlPort;
  fadt.pm1_control_length = kPm1ControlPorts;
  fadt.x_pm1a_control = PortRegister(kPm1ControlPort, kPm1ControlPorts);
  fadt.c2_latency = kNoC2;
  fadt.c3_latency = kNoC3;
  fadt.boot_architecture = kNoVga | kNoCmosClock;
  fadt.flags = kWbinvdWorks | kC1Works | kNoPowerButton | kNoSleepButton | kNoFixedClock | kHasResetRegister;
  fadt.reset_register = PortRegister(kResetPort, 1);
  fadt.reset_value = kResetValue;
  return Finish(std::string(BytesOf(fadt)));
}

std::string BuildFacs() {
  Facs facs = {};
  SetText(facs.signature, "FACS");
  facs.length = sizeof(facs);
  facs.version = 2;
  return std::string(BytesOf(facs));
}

MadtInterruptOverride Override(int isa_irq, int gsi, uint16_t flags) {
  MadtInterruptOverride override = {};
  override.isa_irq = isa_irq;
  override.gsi = gsi;
  override.flags = flags;
  return override;
}

std::string BuildMadt(int vcpus) {
  Madt madt = {};
  madt.header = Header("APIC", 5);
  madt.local_apics = kLocalApics.value();
  madt.flags = kHas8259s;
  std::string table(BytesOf(madt));
  for (int vcpu = 0; vcpu < vcpus; ++vcpu) {
    MadtLocalApic apic = {};
    apic.processor = apic.apic_id = vcpu;
    apic.flags = kProcessorEnabled;
    absl::StrAppend(&table, BytesOf(apic));
  }
  MadtIoApic io_apic = {};
  io_apic.id = kIoApicId;
  io_apic.address = kIoApic.value();
  absl::StrAppend(&table, BytesOf(io_apic));
  absl::StrAppend(&table, BytesOf(Override(kIsaTimerIrq, kTimerGsi, 0)));
  absl::StrAppend(&table, BytesOf(Override(kSciGsi, kSciGsi, kActiveHigh | kLevelTriggered)));
  MadtLocalNmi nmi = {};
  nmi.processor = kAllProcessors;
  nmi.lint = 1;
  absl::StrAppend(&table, BytesOf(nmi));
  return Finish(std::move(table));
}

template <class Address>
std::string BuildRootTable(absl::string_view signature, std::initializer_list<Gpa> tables) {
  std::string addresses;
  for (const Gpa table : tables) absl::StrAppend(&addresses, BytesOf(static_cast<Address>(table.value())));
  return Finish(Header(signature, 1), addresses);
}

std::string BuildRsdp(Gpa rsdt, Gpa xsdt) {
  Rsdp rsdp = {};
  SetText(rsdp.signature, "RSD PTR ");
  SetText(rsdp.oem_id, "QUIRE ");
  rsdp.revision = 2;
  rsdp.rsdt = rsdt.value();
  rsdp.length = sizeof(rsdp);
  rsdp.xsdt = xsdt.value();
  rsdp.checksum = Checksum(BytesOf(rsdp).substr(0, kRsdpFirstPart));
  rsdp.extended_checksum = Checksum(BytesOf(rsdp));
  return std::string(BytesOf(rsdp));
}

// Puts tables one after another; the first bytes are left to the RSDP, which is known last.
class Area {
 public:
  Area() : bytes_(sizeof(Rsdp), '\0') {}

  Gpa Add(absl::string_view table) {
    bytes_.resize((bytes_.size() + kFacsAlignment - 1) / kFacsAlignment * kFacsAlignment);
    const Gpa place = kAcpiBegin + ByteCount::Bytes(bytes_.size());
    absl::StrAppend(&bytes_, table);
    return place;
  }

  std::vector<std::byte> Finish(const std::string& rsdp) && {
    bytes_.replace(0, rsdp.size(), rsdp);
    QUIRE_CHECK(bytes_.size() <= kAcpiEnd.value() - kAcpiBegin.value());
    const auto* begin = reinterpret_cast<const std::byte*>(bytes_.data());
    return {begin, begin + bytes_.size()};
  }

 private:
  std::string bytes_;
};

}  // namespace

std::string BuildDsdt(int virtio_devices) {
  std::string devices = Com1();
  for (int device = 0; device < virtio_devices; ++device) devices += VirtioDevice(device);
  const std::string off =
      aml::Package({aml::Integer(kSleepTypeOff), aml::Integer(0), aml::Integer(0), aml::Integer(0)});
  return Finish(Header("DSDT", 2), aml::Name("_S5_", off) + aml::Scope("_SB_", devices));
}

std::vector<std::byte> BuildAcpiTables(int vcpus, int virtio_devices) {
  QUIRE_CHECK(vcpus >= 1 && vcpus <= kMaxPcVcpus);
  QUIRE_CHECK(virtio_devices >= 0 && virtio_devices <= kMaxVirtioDevices);
  Area area;
  const Gpa facs = area.Add(BuildFacs());
  const Gpa dsdt = area.Add(BuildDsdt(virtio_devices));
  const Gpa fadt = area.Add(BuildFadt(facs, dsdt));
  const Gpa madt = area.Add(BuildMadt(vcpus));
  const Gpa rsdt = area.Add(BuildRootTable<uint32_t>("RSDT", {fadt, madt}));
  const Gpa xsdt = area.Add(BuildRootTable<uint64_t>("XSDT", {fadt, madt}));
  return std::move(area).Finish(BuildRsdp(rsdt, xsdt));
}

}  // namespace quire
