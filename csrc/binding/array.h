// Arrays that Python passes in: C-contiguous, on the CPU, and aligned as their elements need, which
// nb::ndarray alone does not ask for.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>

namespace halfbyte {

namespace nb = nanobind;

template <typename T, int N>
struct Array : nb::ndarray<const T, nb::ndim<N>, nb::c_contig, nb::device::cpu> {
    using Base = nb::ndarray<const T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
    using Base::Base;
    Array() = default;
    explicit Array(Base base) : Base(std::move(base)) {}
};

// Elements of any type.
struct AnyMatrix : nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu> {
    using Base = nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
    using Base::Base;
    AnyMatrix() = default;
    explicit AnyMatrix(Base base) : Base(std::move(base)) {}
};

}  // namespace halfbyte

namespace nanobind::detail {

// As nanobind's own caster, which is inside; misaligned data is an argument of the wrong type.
template <typename A>
struct aligned_array_caster {
    using Inner = type_caster<typename A::Base>;
    NB_TYPE_CASTER(A, Inner::Name)

    template <typename Flags>
    bool from_python(handle source, Flags flags, cleanup_list* cleanup) noexcept {
        Inner inner;
        if (!inner.from_python(source, flags, cleanup)) return false;
        value = A(std::move(inner.value));
        return reinterpret_cast<std::uintptr_t>(value.data()) % value.itemsize() == 0;
    }
};

template <typename T, int N>
struct type_caster<halfbyte::Array<T, N>> : aligned_array_caster<halfbyte::Array<T, N>> {};
template <>
struct type_caster<halfbyte::AnyMatrix> : aligned_array_caster<halfbyte::AnyMatrix> {};

}  // namespace nanobind::detail
