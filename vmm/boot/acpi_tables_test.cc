#include "vmm/boot/acpi_tables.h"

#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/boot/pc_layout.h"

namespace quire {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// The tables as a guest finds them: from the RSDP on, by address.
class Tables {
 public:
  Tables(int vcpus, int devices) : bytes_(BuildAcpiTables(vcpus, devices)) {}

  template <class Number>
  Number At(uint64_t address) const {
    Number number;
    EXPECT_GE(address, kAcpiBegin.value());
    EXPECT_LE(address + sizeof(number), kAcpiBegin.value() + bytes_.size());
    std::memcpy(&number, bytes_.data() + (address - kAcpiBegin.value()), sizeof(number));
    return number;
  }
  std::string Text(uint64_t address, size_t size) const {
    return std::string(reinterpret_cast<const char*>(bytes_.data()) + (address - kAcpiBegin.value()), size);
  }
  std::string Table(uint64_t address) const { return Text(address, At<uint32_t>(address + 4)); }

  uint64_t rsdp() const { return kAcpiBegin.value(); }
  uint64_t xsdt() const { return At<uint64_t>(rsdp() + 24); }
  uint64_t rsdt() const { return At<uint32_t>(rsdp() + 16); }
  // Of the table with that signature, by way of the XSDT.
  uint64_t Find(absl::string_view signature) const {
    for (uint64_t at = xsdt() + 36; at < xsdt() + At<uint32_t>(xsdt() + 4); at += 8) {
      if (Text(At<uint64_t>(at), 4) == signature) return At<uint64_t>(at);
    }
    ADD_FAILURE() << "no " << signature;
    return rsdp();
  }
  uint64_t fadt() const { return Find("FACP"); }
  uint64_t dsdt() const { return At<uint32_t>(fadt() + 40); }
  uint64_t facs() const { return At<uint32_t>(fadt() + 36); }

 private:
  std::vector<std::byte> bytes_;
};

int Sum(absl::string_view bytes) {
  uint8_t sum = 0;
  for (const char byte : bytes) sum += static_cast<uint8_t>(byte);
  return sum;
}

TEST(AcpiTables, SumsAreZero) {
  const Tables tables(3, kMaxVirtioDevices);
  EXPECT_EQ(tables.Text(tables.rsdp(), 8), "RSD PTR ");
  EXPECT_EQ(Sum(tables.Text(tables.rsdp(), 20)), 0);
  EXPECT_EQ(Sum(tables.Text(tables.rsdp(), 36)), 0);
  for (const uint64_t table : {tables.xsdt(), tables.rsdt(), tables.fadt(), tables.dsdt(), tables.Find("APIC")}) {
    EXPECT_EQ(Sum(tables.Table(table)), 0) << tables.Text(table, 4);
  }
}

TEST(AcpiTables, BothRootTablesNameTheSame) {
  const Tables tables(1, 0);
  EXPECT_EQ(tables.At<uint32_t>(tables.rsdt() + 4), 36u + 2 * 4);
  EXPECT_EQ(tables.At<uint32_t>(tables.xsdt() + 4), 36u + 2 * 8);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(tables.At<uint32_t>(tables.rsdt() + 36 + 4 * i), tables.At<uint64_t>(tables.xsdt() + 36 + 8 * i));
  }
}

TEST(AcpiTables, TheFixedHardwareIsWhereTheLayoutSays) {
  const Tables tables(1, 0);
  const uint64_t fadt = tables.fadt();
  EXPECT_EQ(tables.At<uint16_t>(fadt + 46), kSciGsi);
  EXPECT_EQ(tables.At<uint32_t>(fadt + 56), kPm1EventPort);
  EXPECT_EQ(tables.At<uint32_t>(fadt + 64), kPm1ControlPort);
  EXPECT_EQ(tables.At<uint8_t>(fadt + 88), 4);
  EXPECT_EQ(tables.At<uint8_t>(fadt + 89), 2);
  EXPECT_EQ(tables.At<uint16_t>(fadt + 109), 0b100100)
      << "no VGA, no CMOS clock; without an 8042 a kernel does not look for one";
  EXPECT_EQ(tables.At<uint32_t>(fadt + 112) >> 20 & 1, 0u) << "hardware-reduced";
  EXPECT_EQ(tables.At<uint32_t>(fadt + 112) >> 10 & 1, 1u) << "has a reset register";
  EXPECT_EQ(tables.At<uint64_t>(fadt + 120), kResetPort);
  EXPECT_EQ(tables.At<uint8_t>(fadt + 128), kResetValue);
  EXPECT_EQ(tables.At<uint64_t>(fadt + 140), tables.dsdt());
  EXPECT_EQ(tables.At<uint64_t>(fadt + 152), kPm1EventPort);
  EXPECT_EQ(tables.At<uint64_t>(fadt + 176), kPm1ControlPort);
}

TEST(AcpiTables, TheFacsIsAligned) {
  const Tables tables(1, 0);
  EXPECT_EQ(tables.Text(tables.facs(), 4), "FACS");
  EXPECT_EQ(tables.facs() % 64, 0u);
}

// Entries of the MADT, by type.
std::multimap<int, std::string> Interrupts(const Tables& tables) {
  const std::string madt = tables.Table(tables.Find("APIC"));
  std::multimap<int, std::string> entries;
  for (size_t at = 44; at + 2 <= madt.size(); at += static_cast<uint8_t>(madt[at + 1])) {
    if (madt[at + 1] < 2) break;
    entries.emplace(madt[at], madt.substr(at, madt[at + 1]));
  }
  return entries;
}

TEST(AcpiTables, EveryProcessorHasItsLocalApic) {
  for (const int vcpus : {1, 2, kMaxPcVcpus}) {
    const auto entries = Interrupts(Tables(vcpus, 0));
    EXPECT_EQ(entries.count(0), static_cast<size_t>(vcpus));
    int id = 0;
    for (auto [at, end] = entries.equal_range(0); at != end; ++at, ++id) {
      EXPECT_EQ(static_cast<uint8_t>(at->second[3]), id);
      EXPECT_EQ(at->second[4], 1) << "enabled";
    }
  }
}

TEST(AcpiTables, TheIoApicAndWhatIsWiredOtherwise) {
  const auto entries = Interrupts(Tables(1, 0));
  ASSERT_EQ(entries.count(1), 1u);
  EXPECT_EQ(entries.find(1)->second, std::string("\x01\x0c\x00\x00\x00\x00\xc0\xfe\x00\x00\x00\x00", 12));
  ASSERT_EQ(entries.count(2), 2u);
  auto override = entries.find(2);
  EXPECT_EQ(override++->second, std::string("\x02\x0a\x00\x00\x02\x00\x00\x00\x00\x00", 10));
  EXPECT_EQ(override->second, std::string("\x02\x0a\x00\x09\x09\x00\x00\x00\x0d\x00", 10));
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

// ACPI's own compiler takes tables apart and puts them together again.
class Iasl : public ::testing::Test {
 protected:
  void SetUp() override {
    if (access("/usr/bin/iasl", X_OK) != 0) {
      GTEST_SKIP() << "NOT TESTED: the AML has not been read by ACPI's own compiler, /usr/bin/iasl, which is not here; "
                      "it is in the package acpica-tools";
    }
  }

  // The source that `table` is the compiled form of.
  std::string Disassemble(const std::string& table) {
    std::ofstream(base_ + ".dat", std::ios::binary) << table;
    Run(absl::StrCat("-p ", base_, " -d ", base_, ".dat"));
    return ReadFile(base_ + ".dsl");
  }

  // Disassembles `table` and compiles that.
  std::string RoundTrip(const std::string& table) {
    Disassemble(table);
    Run(absl::StrCat("-p ", base_, "_again ", base_, ".dsl"));
    EXPECT_THAT(output_, HasSubstr(" 0 Errors"));
    EXPECT_THAT(output_, HasSubstr(" 0 Warnings"));
    return ReadFile(base_ + "_again.aml");
  }

  void Run(const std::string& arguments) {
    const std::string log = base_ + ".log";
    const int status = std::system(absl::StrCat("/usr/bin/iasl ", arguments, " >", log, " 2>&1").c_str());
    output_ = ReadFile(log);
    EXPECT_EQ(status, 0) << output_;
    EXPECT_THAT(output_, Not(HasSubstr("**** ")));
  }

  const std::string base_ =
      absl::StrCat(::testing::TempDir(), "/", ::testing::UnitTest::GetInstance()->current_test_info()->name());
  std::string output_;
};

// The compiler puts its own name and version at the end of the header, and a checksum that fits.
constexpr size_t kChecksumAt = 9, kCompilerAt = 28, kHeaderEnd = 36;
std::string WithoutCompiler(std::string table) {
  table.replace(kCompilerAt, kHeaderEnd - kCompilerAt, kHeaderEnd - kCompilerAt, '-');
  table[kChecksumAt] = 0;
  return table;
}

TEST_F(Iasl, TheDsdtIsWhatItsSourceCompilesTo) {
  for (const int devices : {0, 1, kMaxVirtioDevices}) {
    const std::string dsdt = BuildDsdt(devices);
    EXPECT_EQ(WithoutCompiler(RoundTrip(dsdt)), WithoutCompiler(dsdt)) << devices << " devices";
  }
}

TEST_F(Iasl, TheFixedTablesAreWhatTheirSourcesCompileTo) {
  const Tables tables(2, 1);
  for (const uint64_t table : {tables.fadt(), tables.Find("APIC"), tables.xsdt(), tables.rsdt(), tables.facs()}) {
    const std::string bytes = tables.Table(table);
    const std::string again = RoundTrip(bytes);
    if (table == tables.facs()) {
      EXPECT_EQ(again, bytes);
    } else {
      EXPECT_EQ(WithoutCompiler(again), WithoutCompiler(bytes)) << tables.Text(table, 4);
    }
  }
}

TEST_F(Iasl, TheSourceSaysWhatThereIs) {
  const std::string source = Disassemble(BuildDsdt(2));
  EXPECT_THAT(source, HasSubstr("Device (COM1)"));
  EXPECT_THAT(source, HasSubstr("EisaId (\"PNP0501\")"));
  EXPECT_THAT(source, HasSubstr("0x03F8,"));
  EXPECT_THAT(source, HasSubstr("IRQNoFlags ()"));
  EXPECT_THAT(source, HasSubstr("Device (VIO1)"));
  EXPECT_THAT(source, Not(HasSubstr("Device (VIO2)")));
  EXPECT_THAT(source, HasSubstr("\"LNRO0005\""));
  EXPECT_THAT(source, HasSubstr("0xD0001000,"));
  EXPECT_THAT(source, HasSubstr("Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive"));
  EXPECT_THAT(source, HasSubstr("0x00000011,"));
  EXPECT_THAT(source, HasSubstr("Name (_S5, Package (0x04)"));
}

}  // namespace
}  // namespace quire
