// Structs that Python passes as objects: every field is read from the attribute of its name. Such a
// struct lists its fields as kFields, a tuple of (name, member) pairs.
#pragma once
#include <nanobind/nanobind.h>

#include <cstddef>
#include <tuple>
#include <type_traits>
#include <utility>

#include "binding/array.h"

namespace nanobind::detail {

template <typename T>
struct fields_caster {
    NB_TYPE_CASTER(T, const_name("object"))

    template <typename Flags>
    bool from_python(handle source, Flags flags, cleanup_list* cleanup) noexcept {
        constexpr std::size_t count = std::tuple_size_v<decltype(T::kFields)>;
        return all(source, flags, cleanup, std::make_index_sequence<count>{});
    }

  private:
    template <typename Flags, std::size_t... I>
    bool all(handle source, Flags flags, cleanup_list* cleanup,
             std::index_sequence<I...>) noexcept {
        return (one<I>(source, flags, cleanup) && ...);
    }

    template <std::size_t I, typename Flags>
    bool one(handle source, Flags flags, cleanup_list* cleanup) noexcept {
        static PyObject* const name = PyUnicode_InternFromString(std::get<I>(T::kFields).first);
        const object got = steal(PyObject_GetAttr(source.ptr(), name));
        if (!got.is_valid()) {
            PyErr_Clear();  // the call has an argument of the wrong type
            return false;
        }
        auto& field = value.*std::get<I>(T::kFields).second;
        using Field = std::remove_reference_t<decltype(field)>;
        make_caster<Field> caster;
        if (!caster.from_python(got, flags, cleanup)) return false;
        field = caster.operator cast_t<Field&&>();
        return true;
    }
};

}  // namespace nanobind::detail
